//! Tools of this process as an MCP server: what `sophia mcp serve` runs on its standard streams.

use std::sync::Arc;

use rmcp::{
    ErrorData, RoleServer, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation, ListToolsResult,
        PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
    },
    service::RequestContext,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Error, ErrorKind, Result, Scope, toolset::Toolset};

/// Serves tools in one scope until the client closes its side.
///
/// # Errors
/// `Unavailable` where there is no handshake.
pub(crate) async fn serve(
    toolset: Arc<dyn Toolset>,
    scope: Scope,
    input: impl AsyncRead + Send + Unpin + 'static,
    output: impl AsyncWrite + Send + Unpin + 'static,
) -> Result<()> {
    const SERVE: &str = "mcp.serve";
    scope.validate(SERVE)?;
    let failed = |what: &str, error: String| Error::new(ErrorKind::Unavailable, SERVE, format!("{what}: {error}"));
    let tools = toolset
        .tools()
        .iter()
        .map(|tool| serde_json::from_value::<Tool>(tool.clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::new(ErrorKind::Internal, SERVE, "a tool cannot be described").with_source(error))?;
    let server = Server { toolset, tools, scope };
    let service = server
        .serve((input, output))
        .await
        .map_err(|error| failed("the client did not shake hands", error.to_string()))?;
    service.waiting().await.map(drop).map_err(|error| failed("the server ended early", error.to_string()))
}

#[derive(Debug)]
struct Server {
    toolset: Arc<dyn Toolset>,
    tools: Vec<Tool>,
    scope: Scope,
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        let name = format!("sophia-{}", self.toolset.name());
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new(name, env!("CARGO_PKG_VERSION")))
            .with_instructions(self.toolset.instructions())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools.clone()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = request.arguments.unwrap_or_default();
        Ok(match self.toolset.call(&request.name, arguments, &self.scope).await {
            Ok(output) => {
                let mut result = CallToolResult::success(vec![ContentBlock::text(output.text)]);
                result.structured_content = Some(output.data);
                result.into()
            }
            // What went wrong is for the model to read: it may do better.
            Err(error) => CallToolResult::error(vec![ContentBlock::text(error.message())]).into(),
        })
    }
}
